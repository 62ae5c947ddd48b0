"""How a bundle is opened and verified is said with all that its settings leave to the user."""

import shlex

from decrop.bundle.usage import load_call, verify_command
from tests.cases import cases
from tests.decrop.digits_trial import short_trial

STANDARDISATION = ("classifier.mean=[0.5]", "classifier.std=[0.25]")
FACTORY = ("classifier.source=my_nets:make", "classifier.training=null")
PHOTOS = ("dataset.name=image_folder", *FACTORY, *STANDARDISATION)


URL = "http://127.0.0.1:5001/invocations"
TRUSTED, FLAG = ", trust_code=True", " --trust-code"
FILE, NAMED = ', classifier="WEIGHTS.safetensors"', " --weights WEIGHTS.safetensors"


@cases(
    ("settings", "with_classifier", "load", "verify"),
    [
        ((), True, "", ""),
        ((), False, FILE, NAMED),
        (PHOTOS, True, TRUSTED, f" --dataset-path PATH{FLAG}"),
        ((*PHOTOS, "dataset.path=my photos"), True, TRUSTED, f" --dataset-path 'my photos'{FLAG}"),
        (("denoiser.source=my_nets:make",), True, TRUSTED, FLAG),
        (
            (f"classifier.source={URL}", "classifier.training=null"),
            False,
            f', classifier="{URL}"',
            f" --weights {URL}",
        ),
    ],
)
def test_what_a_user_types_is_said(
    settings: tuple[str, ...], with_classifier: bool, load: str, verify: str
) -> None:
    config = short_trial(*settings)
    call = load_call(config, "my-bundle", with_classifier=with_classifier)
    command = verify_command(config, "my bundle", with_classifier=with_classifier)
    assert call == f'decrop.load("my-bundle"{load})'
    assert command == f"decrop verify 'my bundle'{verify}"
    assert shlex.split(command)[2] == "my bundle"
