"""The gradient of L_SD: whether verl's engine has it right, how large it is, and what bf16 keeps of it."""
