"""What every room uses: files written whole, processes, text and names."""
