"""What exists, who may use it and what should run: one service per file. The only code that opens the database."""
