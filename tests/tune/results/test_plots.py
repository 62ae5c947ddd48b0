from tune.results.plots import front_figure, history_figure, importances_figure


def test_history_never_falls_and_reaches_the_last_trial() -> None:
    figure = history_figure({0: 0.2, 1: 0.1, 3: 0.5}, {2: 0.05, 4: 0.1}, reference=0)
    [axes] = figure.axes
    best, complete, pruned, reference = axes.get_lines()
    assert list(best.get_xdata()) == [0, 1, 3, 4]
    assert list(best.get_ydata()) == [0.2, 0.2, 0.5, 0.5]
    assert list(complete.get_xdata()) == [0, 1, 3]
    assert list(pruned.get_xdata()) == [2, 4]
    assert list(reference.get_ydata()) == [0.2]


def test_importances_are_bars_in_percent_with_the_first_on_top() -> None:
    [axes] = importances_figure({"sigma": 0.75, "seed": 0.25}, "title").axes
    assert [round(bar.get_width()) for bar in axes.patches] == [75, 25]
    assert axes.yaxis_inverted()


def test_numbers_of_trials_are_drawn_with_the_front() -> None:
    points = {0: (10.0, 0.2), 1: (20.0, 0.1)}
    [axes] = front_figure(points, [0], ("weights", "radius")).axes
    every, front = axes.get_lines()
    assert sorted(every.get_xdata()) == [10, 20]
    assert list(front.get_xdata()) == [10]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("weights", "radius")
