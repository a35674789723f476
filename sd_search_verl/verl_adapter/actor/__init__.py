"""In the actor's process: the teacher pass, the loss and its gradient, in verl's FSDP worker."""
