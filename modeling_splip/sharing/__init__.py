"""What goes to the Hub beside the weights: the model card and the adapters in PEFT's form."""
