"""The front door: ``python app.py`` serves the page; ``python -m tuner`` does everything else."""


def main() -> None:
    import argparse
    import sys

    from tuner.errors import TunerError

    parser = argparse.ArgumentParser(description="Serve the EasyAnimate Tuner page.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on")
    parser.add_argument("--data-dir", default=None, help="where runs and presets are kept")
    asked = parser.parse_args()

    from tuner.ui.app import launch

    try:
        launch(host=asked.host, port=asked.port, data_dir=asked.data_dir)
    except TunerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
