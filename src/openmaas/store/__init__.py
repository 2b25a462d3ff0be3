"""What must last: the database (tables and migrations) and the blobs. Imports core only."""
