"""Jobs on a Ray cluster: what they cost, by a simulation that is held against nodes of this machine, and what kills leave of them."""
