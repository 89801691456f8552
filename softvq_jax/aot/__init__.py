"""Cost of programs on TPUs that are not present: compiles ahead of time, and analyzes the compiled program."""
