"""In the rollout's processes: verl's agent loop and vLLM servers, and the weights that reach them."""
