"""Whether a policy can be its own teacher: what it does with a hindsight block, measured before it trains with one."""
