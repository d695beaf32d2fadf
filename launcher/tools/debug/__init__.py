"""`launcher debug`: a few steps in this process, and examinations of the model that trains in them."""
