"""One file a mixer: its FORMS, the configurations in which it must keep the laws."""
