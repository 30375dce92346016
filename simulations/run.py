"""`python simulations/run.py`: the same program as `fedward simulate`."""

try:
    from fedward.simulations.cli import main
except ModuleNotFoundError as error:
    if error.name != "fedward":
        raise
    raise SystemExit("fedward is not installed here; run: pip install -e .") from None

if __name__ == "__main__":
    raise SystemExit(main())
