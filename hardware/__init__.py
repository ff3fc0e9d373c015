"""What a chip can run: targets as data, the interpreter, compilers, and this machine."""
