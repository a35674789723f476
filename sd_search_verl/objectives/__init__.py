"""Other methods of the family, each a switch of the configuration: tensors in, tensors out."""
