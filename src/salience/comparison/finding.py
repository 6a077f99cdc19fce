"""From maps and segments to what differs: concepts, effects, interventions, and the tables that tell of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from salience.comparison.asking import ask_work
from salience.comparison.attributing import Attributions, Side, attribute
from salience.comparison.cells import Procedure
from salience.comparison.concepts import Found, find_concepts
from salience.comparison.confirmation import Interventions, confirm, intervention_effects
from salience.comparison.effects import Slices, effects
from salience.comparison.interventions import Intervener, Trial, choose_trials, read_drops
from salience.comparison.notes import adds_up, of_concepts, of_images, of_maps
from salience.comparison.ranking import order_concepts, worth_testing
from salience.comparison.result import STAGE
from salience.comparison.segmenting import Segmenter
from salience.comparison.stage import lacking, opened, workers
from salience.comparison.strata import quadrants
from salience.data.base import ImageSource
from salience.engine.crew import Crew
from salience.engine.events import Finished, Listener, Progress, Started
from salience.engine.hiring import Staff, carry_out
from salience.engine.plan import Plan
from salience.engine.scalars import check_output
from salience.errors import ImagesError
from salience.models.classifier import Classifier
from salience.store.packed import Embeddings, LabelMaps
from salience.store.reader import StoredMaps
from salience.store.run import Run
from salience.store.schema import DERIVED
from salience.store.writer import RunWriter

_IMAGES = 400
"""Images in which a concept's pixels are changed, at most."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What was found before any pixel was changed; concepts are numbered by falling size of what differs."""

    attributions: Attributions
    concepts: Found
    targets: npt.NDArray[np.int64]
    slices: Slices
    effects: pa.Table
    worth: tuple[int, ...]
    """The concepts that are tested by changing their pixels."""


@dataclass
class Finder:
    """Finds what differs, in the run whose maps and segments are there.

    Parameters
    ----------
    models
        In one label space, the reference first.
    asked
        What the user asked for; it stands in ``run.json``, with what became of it.
    plan_for
        Returns how a model is run for interventions.
    """

    models: Sequence[Classifier]
    source: ImageSource
    segmenter: Segmenter
    asked: Mapping[str, Any]
    listen: Listener
    plan_for: Callable[[Classifier, Mapping[str, Any] | None], Plan]
    crew: Crew | Staff | None = None
    """Who asks the models, where that is not this process."""

    def find(self, writer: RunWriter, notes: Sequence[str]) -> None:
        """Write the tables of the comparison, and say in the run that it is complete.

        Raises
        ------
        ImagesError
            When there is no image that all models explain.
        """
        run = opened(writer)
        recipes = {m.name: run.recipe(self.asked["method"], m.name)[0] for m in self.models}
        evidence = self._evidence(run, recipes)
        found, drop_recipes = self._intervene(writer, run, recipes, evidence)
        told = evidence.effects if found is None else confirm(evidence.effects, found)
        tables = {
            "segments": evidence.concepts.segment_table(evidence.attributions),
            "attributions": evidence.attributions.table(evidence.targets.tolist()),
            "concepts": evidence.concepts.table,
            "effects": told,
            "interventions": DERIVED["interventions"].empty_table() if found is None else found.table,
        }
        for name, rows in tables.items():
            writer.put_derived(name, rows)
        described = self.segmenter.encoder is None and evidence.attributions.names is None
        settings = {
            **self.asked,
            "ledger": adds_up(run, recipes),
            "concepts_found": evidence.concepts.count,
            "named": evidence.attributions.names is not None,
            "recipes": recipes,
            "partition_recipe": self.segmenter.partition_recipe,
            "embedding_recipe": self.segmenter.embedding_recipe,
            "drop_recipes": drop_recipes,
            "whole_inputs": self.segmenter.whole_inputs,
            "tested": list(evidence.worth),
            "notes": [
                *notes,
                *of_images(len(self.source), len(evidence.attributions.images)),
                *of_maps(run, recipes, self.asked["method"], evidence.attributions.images),
                *of_concepts(evidence.concepts.count, len(evidence.worth), described=described),
            ],
        }
        writer.info["stages"][STAGE].update(settings=settings, complete=True)

    # ------------------------------------------------------------------ what the maps say

    def _evidence(self, run: Run, recipes: Mapping[str, str]) -> Evidence:
        images, targets = self._compared(run, recipes)
        begin = time.perf_counter()
        self.listen(Started("concepts", len(images), 0, 1, "contiguous", workers(), "cpu", 0, "compare"))
        contents = run.table("contents").to_pylist()
        attributions = attribute(
            images,
            targets.tolist(),
            [Side(m.name, StoredMaps(run, recipes[m.name]), self.segmenter.input_of(m)) for m in self.models],
            LabelMaps(run, self.segmenter.partition_recipe),
            {r["image_id"]: (r["height"], r["width"]) for r in contents},
            self.segmenter.frame.size,
            workers(),
            lambda done: self._tell(done, len(images), begin),
        )
        embeddings = Embeddings(run, self.segmenter.embedding_recipe)
        names = self.models[0].class_names
        classes = [names[t] for t in targets.tolist()]
        concepts = find_concepts(attributions, embeddings, targets, self.asked["concepts"], self.asked["seed"])
        groups = dict(zip(run.images["image_id"].to_pylist(), run.images["group"].to_pylist(), strict=True))
        slices = Slices(
            classes,
            self._quadrants(run, images),
            [f"image {i}" if groups[i] is None else f"group {groups[i]}" for i in images],
        )
        evidence = self._effects(attributions, concepts, targets, slices, adds_up(run, recipes))
        seconds = time.perf_counter() - begin
        rate = round(len(images) / max(1e-9, seconds), 3)
        self.listen(Finished("concepts", len(images), 0, 0, round(seconds, 3), rate, 0, 0, "compare"))
        return evidence

    def _effects(
        self,
        attributions: Attributions,
        concepts: Found,
        targets: npt.NDArray[np.int64],
        slices: Slices,
        ledger: bool,
    ) -> Evidence:
        """Test the concepts, then number them by what differs."""
        procedure = Procedure(seed=self.asked["seed"])

        def test(c: Found) -> pa.Table:
            shares = {m: attributions.by_concept(v, c.concept, c.count) for m, v in attributions.shares.items()}
            totals = {m: attributions.by_concept(v, c.concept, c.count) for m, v in attributions.totals.items()}
            return effects(shares, totals if ledger else None, slices, procedure=procedure)

        rows = test(concepts)
        order = order_concepts(rows, concepts.quality)
        concepts, rows = concepts.numbered(order), _renumbered(rows, order)
        worth = worth_testing(rows, concepts.quality, self.asked["confirm"])
        return Evidence(attributions, concepts, targets, slices, rows, tuple(worth))

    def _compared(self, run: Run, recipes: Mapping[str, str]) -> tuple[list[str], npt.NDArray[np.int64]]:
        """Return the images that every model has a map of and that have segments, and their targets."""
        maps = run.table("maps").select(["recipe", "image_id", "target"])
        target: dict[str, dict[str, int]] = {}
        for name, recipe in recipes.items():
            own = maps.filter(pc.equal(maps["recipe"], recipe))
            target[name] = dict(zip(own["image_id"].to_pylist(), own["target"].to_pylist(), strict=True))
        first = target[self.models[0].name]
        embedded = Embeddings(run, self.segmenter.embedding_recipe)
        labelled = LabelMaps(run, self.segmenter.partition_recipe)
        images = [
            i
            for i in run.images["image_id"].to_pylist()
            if i in labelled and i in embedded and all(of.get(i, -1) == first.get(i) for of in target.values())
        ]
        if not images:
            raise ImagesError(
                f"None of the {len(self.source)} images could be compared: each failed in a model or could not be cut "
                f"into segments. 'salience report {run.folder}' shows why."
            )
        return images, np.array([first[i] for i in images], dtype=np.int64)

    def _quadrants(self, run: Run, images: Sequence[str]) -> dict[str, list[str | None]]:
        rows = run.table("predictions").select(["image_id", "model", "predicted"]).to_pylist()
        predicted = {(r["model"], r["image_id"]): r["predicted"] for r in rows}
        known = dict(zip(run.images["image_id"].to_pylist(), run.images["label"].to_pylist(), strict=True))
        labels = [-1 if known[i] is None else known[i] for i in images]
        by_model = {m.name: [predicted[m.name, i] for i in images] for m in self.models}
        reference, *others = by_model
        return {m: quadrants(labels, by_model[reference], by_model[m]) for m in others}

    def _tell(self, done: int, images: int, begin: float) -> None:
        elapsed = time.perf_counter() - begin
        self.listen(Progress("concepts", done, images, done / images, done / elapsed, elapsed * (images - done) / done))

    # ------------------------------------------------------------------ what the models answer

    def _intervene(
        self, writer: RunWriter, run: Run, recipes: Mapping[str, str], evidence: Evidence
    ) -> tuple[Interventions | None, dict[str, str]]:
        """Change the pixels of the concepts worth it, ask all models, and return what that did."""
        labels = LabelMaps(run, self.segmenter.partition_recipe)
        trials = choose_trials(
            evidence.attributions, evidence.concepts.concept, evidence.worth, labels, _IMAGES, self.asked["seed"]
        )
        if not trials:
            return None, {}
        targets = dict(zip(evidence.attributions.images, evidence.targets.tolist(), strict=True))
        maps = run.table("maps").select(["recipe", "image_id", "score"])
        found = {}
        for model in self.models:
            own = maps.filter(pc.equal(maps["recipe"], recipes[model.name]))
            scores = dict(zip(own["image_id"].to_pylist(), own["score"].to_pylist(), strict=True))
            found[model.name] = self._ask(writer, model, trials, scores, targets, labels)
        rows = opened(writer)
        drops = read_drops(rows, found, evidence.attributions.images, evidence.concepts.count, trials)
        procedure = Procedure(seed=self.asked["seed"])
        return intervention_effects(drops, evidence.slices, procedure=procedure), found

    def _ask(
        self,
        writer: RunWriter,
        model: Classifier,
        trials: Mapping[str, Sequence[Trial]],
        scores: Mapping[str, float],
        targets: Mapping[str, int],
        labels: LabelMaps,
    ) -> str:
        """Have one model answer all trials that it has not answered yet; return the recipe."""
        stage = writer.info["stages"][STAGE]
        plans: dict[str, Any] = stage.setdefault("plans", {})

        def keep(plan: Plan) -> None:
            plans[model.name] = plan.to_dict()
            writer.describe()

        plan = self.plan_for(model, plans.get(model.name))
        asking = partial(
            Intervener,
            source=self.source,
            labels=labels,
            trials=trials,
            scores={image_id: scores[image_id] for image_id in trials},
            targets={image_id: targets[image_id] for image_id in trials},
            output=check_output(self.asked["output"]),
            partition=self.segmenter.partition_recipe,
            view=self.segmenter.input_of(model),
        )
        intervener = asking(model, plan)
        writer.use_stage(STAGE, model.name, {intervener.recipe: intervener.description})
        keep(plan)
        run = opened(writer)
        refs = [r for r in lacking(run, self.source, intervener.recipe) if r.image_id in trials]
        work = ask_work(asking, intervener, run, refs, self.segmenter.unit_images, keep)
        carry_out(work, writer, self.crew, self.listen)
        if model.account is not None:
            model.account.finish(STAGE)
        return intervener.recipe


def _renumbered(rows: pa.Table, order: Sequence[int]) -> pa.Table:
    """Give concepts their new numbers, and rows the order of model, family, stratum as before, then of concepts."""
    number = np.empty(len(order), dtype=np.int32)
    number[list(order)] = np.arange(len(order), dtype=np.int32)
    new = number[rows["concept"].to_numpy()]
    keys = [rows[c].to_pylist() for c in ("model", "family", "stratum")]
    kinds = {key: i for i, key in enumerate(dict.fromkeys(zip(*keys, strict=True)))}
    place = [kinds[key] for key in zip(*keys, strict=True)]
    at = rows.schema.get_field_index("concept")
    return rows.set_column(at, rows.schema.field(at), pa.array(new)).take(pa.array(np.lexsort((new, place))))
