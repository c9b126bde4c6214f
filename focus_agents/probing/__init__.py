"""The linear probe: what a model's hidden states tell of the object in a support box."""
