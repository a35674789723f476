"""The distillation loss: tensors in, tensors out."""
