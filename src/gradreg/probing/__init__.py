"""What a model supports: each engine tried on a batch, coupled examples, costs, and which engine to take."""
