"""What a program costs on chips that are not here: compiled for them ahead of time, then read and added up."""
