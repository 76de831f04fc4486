"""Where students' code runs: processes behind walls, and the messages that cross them."""
