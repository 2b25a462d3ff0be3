import msgspec

from openmaas.core.settings import Settings, load_settings
from openmaas.fleet.environment import child_environment, server_environment
from openmaas.fleet.lifeline import PARENT_VARIABLE

GIVEN = {
    "PATH": "/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": "/src",
    "OMP_NUM_THREADS": "2",
    "OPENMAAS_API_KEY": "omk_secret",
    "OPENMAAS_DATABASE_URL": "postgresql://u:secret@h/d",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "GITHUB_TOKEN": "secret",
    "PGPASSWORD": "secret",
}
SETTINGS = Settings(home="/h", database_url="postgresql+psycopg://u:secret@h/d", insecure=True, drain_timeout=7.5)


def test_nothing_but_control_gets_a_secret() -> None:
    for kind in ("gateway", "replica", "job"):
        environment = child_environment(SETTINGS, kind, GIVEN)
        assert not [name for name, value in environment.items() if "secret" in value]
        assert environment["PATH"] == "/bin"
        assert environment["OMP_NUM_THREADS"] == "2"


def test_control_gets_what_the_database_and_the_bucket_need_and_no_client_key() -> None:
    environment = child_environment(SETTINGS, "control", GIVEN)
    assert environment["PGPASSWORD"] == environment["AWS_SECRET_ACCESS_KEY"] == "secret"
    assert environment["OPENMAAS_DATABASE_URL"] == SETTINGS.database_url
    assert "OPENMAAS_API_KEY" not in environment


def test_a_replica_gets_the_bucket_credentials_where_models_lie_in_one() -> None:
    bucket = Settings(home="/h", blobs_url="s3://bucket/prefix")
    for kind in ("replica", "job"):
        assert "AWS_SECRET_ACCESS_KEY" in child_environment(bucket, kind, GIVEN)
    assert "AWS_SECRET_ACCESS_KEY" not in child_environment(bucket, "gateway", GIVEN)


def test_the_child_reads_the_settings_as_they_are() -> None:
    told = load_settings(child_environment(SETTINGS, "control", GIVEN))
    assert told == msgspec.structs.replace(SETTINGS, runtime_dir=str(SETTINGS.runtime_path))
    assert load_settings(server_environment(SETTINGS)) == SETTINGS


def test_temporary_files_go_where_the_next_server_removes_them_and_sockets_stay_where_they_are() -> None:
    for kind in ("control", "gateway", "replica"):
        environment = child_environment(SETTINGS, kind, GIVEN | {"TMPDIR": "/elsewhere"})
        assert environment["TMPDIR"] == "/h/tmp"
        assert load_settings(environment).runtime_path == SETTINGS.runtime_path
    assert child_environment(SETTINGS, "job", GIVEN | {"TMPDIR": "/elsewhere"})["TMPDIR"] == "/elsewhere"


def test_all_but_a_job_end_with_their_parent() -> None:
    for kind in ("control", "gateway", "replica"):
        assert PARENT_VARIABLE in child_environment(SETTINGS, kind, GIVEN)
    assert PARENT_VARIABLE not in child_environment(SETTINGS, "job", GIVEN)
