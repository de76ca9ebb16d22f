"""What a person does with photographs: the inspector, its results, pictures of them."""
