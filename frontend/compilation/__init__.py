"""`treadle.compile`: skip Python by replaying a plan, when that is provably the same.

instrument   a function's source, rewritten so that every read, write and call of Python state passes through `watch`
watch        what those passes do while a call is captured: remember what was read (guards) and written (effects)
symbols      Python numbers that remember where they came from, so that a new learning rate needs no new capture
replay       a capture turned into one Python function: check guards, fetch tensors, run the plan, put effects back
api          compile, explain, compiler.reset
"""
