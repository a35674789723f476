"""Experiment configs, found by Hydra as ``pkg://sd_search_verl.hydra_configs`` where the package is installed."""
