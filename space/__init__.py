"""The Gradio Space: draw in the browser, see the photos found."""
