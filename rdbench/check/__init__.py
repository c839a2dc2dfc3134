"""For contributors: a method file to start from (`rdbench methods new`) and a test of one (`rdbench methods check`)."""
