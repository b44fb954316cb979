"""How fast charrnn trains and samples on this machine, beside plain PyTorch and the machine's own limits."""
