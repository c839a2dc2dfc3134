"""Programs that print those figures of docs/ that rdbench's own tables do not, and tests that hold the docs to them."""
