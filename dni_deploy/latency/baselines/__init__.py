"""Other ways to run a family at a changing alpha, as engines that `bench` times beside the product's own."""
