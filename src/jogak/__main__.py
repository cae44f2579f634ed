"""`python -m jogak VERB ...` is `jogak VERB ...`; torchrun starts it so: `torchrun ... -m jogak train RECIPE`."""

from jogak.cli import main

if __name__ == "__main__":
    main()
