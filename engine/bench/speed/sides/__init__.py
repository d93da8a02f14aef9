"""Who is measured: each side is a class that runs in a process of its own."""
