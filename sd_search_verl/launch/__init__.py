"""A whole run on this machine: retriever and training as child processes that never outlive the command."""
