"""What torchrun and srun say is read; what does not fit is told."""

import re

import pytest

from freqfusion.engine.launch import Place, place_in_environment
from freqfusion.engine.launch.environment import first_host

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {
    "SLURM_JOB_ID": "4000",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def without(variables, *names):
    return {name: value for name, value in variables.items() if name not in names}


def test_torchrun():
    place = place_in_environment(TORCHRUN)
    assert place == Place(5, 8, 1, 4, "env://", "torchrun")
    assert (place.machine, place.machines) == (1, 2)


def test_torchrun_under_srun_comes_first():
    assert place_in_environment(SRUN | TORCHRUN).starter == "torchrun"


def test_slurm():
    """Port 20000 + job 4000 + step 2."""
    assert place_in_environment(SRUN) == Place(5, 8, 1, 4, "tcp://gpu07:24002", "SLURM")
    given = SRUN | {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
    assert place_in_environment(given).url == "tcp://10.0.0.1:29500"
    job = without(SRUN, "SLURM_STEP_NODELIST") | {"SLURM_JOB_NODELIST": "login1,gpu2"}
    assert place_in_environment(job).url == "tcp://login1:24002"


def test_all_tasks_of_a_step_meet_at_one_place():
    places = [
        place_in_environment(SRUN | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n % 4)})
        for n in range(8)
    ]
    assert len({place.url for place in places}) == 1
    assert [place.machine for place in places] == [0, 0, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        without(TORCHRUN, "LOCAL_RANK"),  # some clusters number machines by RANK
        without(SRUN, "SLURM_STEP_ID"),  # a batch script
        SRUN | {"SLURM_NTASKS": "1"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},  # one task, or a shell, in a job for eight
    ],
)
def test_a_process_of_its_own(variables):
    assert place_in_environment(variables) is None


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        (TORCHRUN | {"RANK": "one"}, "RANK is 'one', which is no number, though torchrun started"),
        (TORCHRUN | {"RANK": "8"}, "made this process number 8 of 8"),
        (TORCHRUN | {"LOCAL_RANK": "2"}, "number 2 of 4 on its machine, which does not fit"),
        (TORCHRUN | {"WORLD_SIZE": "6"}, "start equally many processes on each machine"),
        (without(SRUN, "SLURM_LOCALID"), "SLURM_LOCALID is not set, though SLURM started"),
        (
            SRUN | {"SLURM_STEP_TASKS_PER_NODE": "4,2"},
            "SLURM_STEP_TASKS_PER_NODE is 4,2, but each machine must have as many tasks",
        ),
        (without(SRUN, "SLURM_STEP_TASKS_PER_NODE"), "SLURM_STEP_TASKS_PER_NODE is not set"),
        (without(SRUN, "SLURM_STEP_NODELIST"), "set MASTER_ADDR to the machine of task 0"),
        (SRUN | {"MASTER_PORT": "high"}, "MASTER_PORT is 'high'"),
    ],
)
def test_what_does_not_fit_is_a_sentence(variables, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        place_in_environment(variables)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("gpu[3,7]", "gpu3"),
        ("rack[1-2]node[04-05]", "rack1node04"),
        ("node-a-[1-4].cluster", "node-a-1.cluster"),
        ("", ""),
    ],
)
def test_first_host(hosts, first):
    assert first_host(hosts) == first
