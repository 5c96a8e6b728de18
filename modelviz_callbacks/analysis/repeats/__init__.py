"""What is done several times over, folded: equal layers, blocks, loops, branches side by side."""
