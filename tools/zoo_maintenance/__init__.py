"""Parts of tools/make_model_zoo.py: editing the tables of the zoo, and generating the documents."""
