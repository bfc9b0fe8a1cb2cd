"""Tables of speed, memory and batches, from benchmarks/*.json. See evaluation_tables.py."""

from __future__ import annotations

from evaluation_figures import Figures, Row


def speed(f: Figures) -> list[Row]:
    wall, peak = f["results", "wall_per_second_256"], f["results", "peak_gb"]
    long = f["results", "peak_gb_10min"]
    motion_speed = [f["results", f"motion_realtime_factor_{s}s"] for s in (10, 60, 3600)]
    layer = [f["results", f"expert_over_dense_{kind}"] for kind in ("still", "moving")]
    return [
        Row(
            "a 10 s clip, 256 px, 25 fps, quality gate included",
            "at most 6 s for 1 s of video",
            (f"{wall:.1f} s",),
            wall <= 6,
        ),
        Row(
            "peak memory of the same, with both workers in one process", "at most 3 GB", (f"{peak:.1f} GB",), peak <= 3
        ),
        Row(
            "rendering alone at 256 px, no bfloat16 (AVX2)",
            "(8 frames a second are asked of AVX-512 with bfloat16)",
            (f"{f['results', 'render_fps_256']:.1f} frames a second",),
            None,
        ),
        Row(
            "rendering alone at 512 px, no bfloat16 (AVX2)",
            "(2 frames a second are asked of AVX-512 with bfloat16)",
            (f"{f['results', 'render_fps_512']:.2f} frames a second",),
            None,
        ),
        Row(
            "memory of rendering, a clip of ten minutes, every tenth segment",
            "at most 3 GB, flat",
            (f"{f['results', 'peak_gb_10s']:.2f} GB after 10 s, {long:.2f} GB at the end",),
            long <= 3 and long <= 1.02 * f["results", "peak_gb_10s"],
        ),
        Row(
            "a feed-forward with all experts, over a plain one of the same active size",
            "at most 1.3 times",
            (f"{layer[0]:.2f} with a still camera, {layer[1]:.2f} with a moving one",),
            max(layer) <= 1.3,
        ),
        Row(
            "motion alone from sound: 10 s, a minute, an hour",
            "at least 20 times real time",
            (", ".join(f"{v:.0f}" for v in motion_speed),),
            min(motion_speed) >= 20,
        ),
        Row(
            "peak memory of the same",
            "",
            (", ".join(f"{f['results', f'motion_peak_gb_{s}s']:.2f}" for s in (10, 60, 3600)) + " GB",),
            None,
        ),
    ]


def batches(f: Figures) -> list[Row]:
    rounds = f["chaos", "rounds"]
    clips = f["chaos", "clips"]
    survived = sum(r["done"] == clips and r["frames_equal"] == clips and not r["repeated"] for r in rounds)
    overhead = f["results", "overhead_fraction_without_start_up"]
    memory = {clips: gigabytes for clips, _, gigabytes in f["results", "growth_batch"]}
    return [
        Row(
            f"{clips} signed clips, two nodes, store on S3; at random moments a worker, a node and the driver are "
            f"killed, the disk is full and the S3 server away for 20 s each; {len(rounds)} rounds",
            "all clips made, nothing twice, equal frames",
            (f"{survived} of {len(rounds)} rounds",),
            survived == len(rounds),
        ),
        Row(
            "orchestration of a clip with no work, 100 clips",
            "at most 0.5 s",
            (f"{f['results', 'overhead_s_per_clip']:.2f} s",),
            f["results", "overhead_s_per_clip"] <= 0.5,
        ),
        Row(
            "orchestration over a bare loop, 4 real clips, one worker, without start-up",
            "at most 5 %",
            (f"{100 * overhead:.1f} %",),
            overhead <= 0.05,
        ),
        Row(
            "the same with start-up",
            "at most 5 %",
            (f"{100 * f['results', 'overhead_fraction']:.0f} %",),
            f["results", "overhead_fraction"] <= 0.05,
        ),
        Row(
            "start of a batch: Ray, a worker, its models, a clip of half a second, and the end",
            "at most 5 s",
            (f"{f['results', 'batch_start_s']:.0f} s",),
            f["results", "batch_start_s"] <= 5,
        ),
        Row(
            "50 clips that are finished and delivered",
            "at most 3 s",
            (f"{f['results', 'found_again_s_50']:.1f} s",),
            f["results", "found_again_s_50"] <= 3,
        ),
        Row(
            "two workers of one thread over one",
            "at least 1.6 times",
            (f"{f['results', 'two_worker_speedup']:.2f} times",),
            f["results", "two_worker_speedup"] >= 1.6,
        ),
        Row(
            "first clip of a manifest of 10,000",
            "within 30 s",
            (f"{f['results', 'first_clip_of_10000_s']:.0f} s",),
            f["results", "first_clip_of_10000_s"] <= 30,
        ),
        Row(
            "driver's memory from clip 100 to clip 500 of it",
            "flat",
            (f"{1000 * (memory[500] - memory[100]):+.0f} MB, of {memory[100]:.1f} GB",),
            memory[500] <= 1.01 * memory[100],
        ),
    ]
