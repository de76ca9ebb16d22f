"""What a person does with photographs: inspect them, look at the result, keep it."""
