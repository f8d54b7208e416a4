"""Vision towers: each turns pixels into rows of features; projectors to a decoder's width lie beside them."""
