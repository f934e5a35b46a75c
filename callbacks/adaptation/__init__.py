"""What methods share that adapt a network to one image: steps that are undone, frozen stages, the loss, the time."""
