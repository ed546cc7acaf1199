from cluster.code import ROOT, import_path


def test_what_was_importable_stays_so_after_this_code() -> None:
    assert import_path({}) == str(ROOT)
    assert import_path({"PYTHONPATH": "/site/modules"}) == f"{ROOT}:/site/modules"
