"""A network for tables as a scikit-learn estimator: 60 patients of the breast cancer data, weight by cross-validation.

python examples/tabular_sklearn.py [--smoke] [--seeds 5]
"""

import argparse

import torch
from _summary import summarize
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gradreg.integrations.sklearn import GradientRegularizedClassifier


def main(arguments: list[str] | None = None) -> None:
    """Trains without the penalty and with a weight that cross-validation on the 60 chooses, and prints both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    epochs, seeds, folds = (2, 1, 2) if options.smoke else (60, options.seeds, 5)
    weights = [0.0, 0.1] if options.smoke else [0.0, 0.01, 0.03, 0.1, 0.3]
    x, y = load_breast_cancer(return_X_y=True)
    found: dict[str, list[float]] = {"no penalty": [], "SpectReg, weight by cross-validation": []}
    for seed in range(seeds):
        train_x, test_x, train_y, test_y = train_test_split(x, y, train_size=60, stratify=y, random_state=seed)
        net = GradientRegularizedClassifier(0, hidden_layer_sizes=(64, 64), epochs=epochs, random_state=seed)
        pipeline = make_pipeline(StandardScaler(), net)
        search = GridSearchCV(
            pipeline, {"gradientregularizedclassifier__weight": weights}, cv=folds, scoring="neg_log_loss"
        )
        search.fit(train_x, train_y)
        pipeline.fit(train_x, train_y)
        print(f"seed {seed}: weight {search.best_params_['gradientregularizedclassifier__weight']:g}")
        for name, model in zip(found, (pipeline, search), strict=True):
            found[name].append(100 * float((model.predict(test_x) == test_y).mean()))
    summarize(found)


if __name__ == "__main__":
    main()
