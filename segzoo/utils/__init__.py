"""What every part of segzoo may use: errors, text, files, paths, processes."""
