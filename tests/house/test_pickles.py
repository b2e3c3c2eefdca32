"""No default path loads a pickle: whoever opens a stranger's file must not run the stranger's code."""

import ast

RESTRICTED = {"mgie/data/sources/legacy.py"}
"""Reads the original program's index through an unpickler that admits plain containers only."""

PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def test_picklers_are_imported_nowhere_else(packages):
    wrong = [
        f"{module.path} imports {name}"
        for module in packages
        if module.path not in RESTRICTED
        for name in module.imports()
        if name.split(".")[0] in PICKLERS and name != "pickle.UnpicklingError"  # what torch.load may raise
    ]
    assert not wrong


def test_the_restricted_reader_is_restricted(packages):
    for module in packages:
        if module.path in RESTRICTED:
            assert not {"pickle.load", "pickle.loads"} & {called for called, _ in module.calls()}
            classes = [node for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
            unpicklers = [c for c in classes if "Unpickler" in " ".join(map(ast.unparse, c.bases))]
            for each in unpicklers:
                methods = {node.name for node in each.body if isinstance(node, ast.FunctionDef)}
                assert "find_class" in methods, f"{module.path}: {each.name} admits everything"


def test_torch_load_takes_tensors_only(everything):
    wrong = []
    for module in everything:
        for called, call in module.calls():
            if called == "torch.load":
                given = {word.arg: ast.unparse(word.value) for word in call.keywords}
                if given.get("weights_only") != "True":
                    wrong.append(f"{module.path}:{call.lineno} calls torch.load without weights_only=True")
    assert not wrong


def test_numpy_loads_arrays_only(everything):
    wrong = [
        f"{module.path}:{call.lineno}"
        for module in everything
        for _, call in module.calls()
        for word in call.keywords
        if word.arg == "allow_pickle" and ast.unparse(word.value) != "False"
    ]
    assert not wrong
