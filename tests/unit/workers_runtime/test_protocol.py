"""Messages between node, runtime and app processes survive the wire."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers_runtime import node_protocol as np
from workers_runtime.protocol import (
    AppSpec,
    AppState,
    AppStatus,
    CallKind,
    FailureKind,
    Handshake,
    WorkerFailure,
    operation_answer,
)

SPEC = AppSpec(
    app_id="crm",
    deployment_id="d",
    sha256="0" * 64,
    entry_point="worker.py",
    credentials={"K": "geheim"},
    manifest={"a": [1]},
    home=True,
)
MESSAGES = [
    np.Ensure(seq=1, spec=SPEC, staged=True, clear=True, deadline=1.5),
    np.Call(
        seq=2,
        app_id="crm",
        kind=CallKind.RPC,
        call="c",
        message={"method": "x", "params": "ä\ud800"[:1]},
    ),
    np.EndCall(call="c", error="account not available"),
    np.OperationReply(op=3, body={"result": None}),
    np.Archive(seq=4, path="/x"),
    np.Stop(seq=5),
    np.Discard(seq=6, app_id="crm"),
    np.GetStatus(seq=7),
    np.Shutdown(seq=8),
    np.Welcome(protocol=1, pid=9, sandbox=["uid"]),
    np.Done(seq=1, failure=FailureKind.CRASHED, error="worker crashed"),
    np.Operation(
        op=1, app_id="crm", deployment_id="d", pid=5, call="c", kind=CallKind.START, message={}
    ),
    np.CallEnded(app_id="crm", call="c"),
    np.Logs(entries=[["crm", "info", "x", 1.0, 3]]),
    AppState(app_id="crm", status=AppStatus.RUNNING, pid=4),
    np.NeedArchive(seq=1, app_id="crm", deployment_id="d", sha256="0"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: m.TYPE)
def test_round_trip(message) -> None:
    line = np.encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert np.decode(line) == message


def test_every_message_is_covered() -> None:
    assert {type(m) for m in MESSAGES} == set(np.Message.__args__)


def test_unknown_fields_are_ignored() -> None:
    assert np.decode(b'{"type":"get_status","seq":1,"later":true}') == np.GetStatus(seq=1)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b'{"type":"nothing"}',
        b'{"type":["ensure"]}',
        b'{"type":"stop"}',
        b'{"type":"call","seq":1,"app_id":"a","kind":"odd","call":"c","message":{}}',
        b'{"type":"ensure","seq":1}',
        b'{"type":"ensure","seq":1,"spec":{}}',
        b"[" * 100_000,
    ],
)
def test_refused(line) -> None:
    with pytest.raises(np.ProtocolError):
        np.decode(line)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda c: st.lists(c) | st.dictionaries(st.text(), c),
    )
)
def test_any_json_survives(value) -> None:
    message = np.Done(seq=1, result=value)
    assert json.loads(np.encode(message))["result"] == value or "?" in str(
        np.decode(np.encode(message))
    )


def test_lone_surrogates_do_not_break_the_line() -> None:
    assert np.decode(np.encode(np.Done(seq=1, result="a\ud800b"))).result == "a?b"


def test_handshake_and_state() -> None:
    shake = Handshake(app_id="crm", deployment_id="d", generation=1, pid=2, methods=["a"])
    assert np.handshake_from_json(np.to_json(shake)) == shake
    state = AppState(app_id="crm", status=AppStatus.CRASHED, last_error="x")
    assert np.app_state_from_json(json.loads(np.encode(state))) == state


def test_secrets_are_not_shown() -> None:
    assert "geheim" not in repr(SPEC)
    assert "geheim" not in repr(MESSAGES[0])


def test_failure_is_cut_and_survives_pickle() -> None:
    failure = WorkerFailure(FailureKind.HANDLER, "x" * 5000)
    copy = pickle.loads(pickle.dumps(failure))
    assert (copy.kind, len(copy.message)) == (FailureKind.HANDLER, 4000)


@pytest.mark.parametrize(
    ("operation", "body", "answer"),
    [
        (
            {"type": "sql_query", "id": "1"},
            {"rows": []},
            {"type": "sql_query_result", "id": "1", "rows": []},
        ),
        ({"type": "sql_commit", "id": "1"}, {}, {"type": "sql_end_result", "id": "1"}),
        (
            {"type": "sql_rollback", "id": "1"},
            {"error": "x"},
            {"type": "sql_end_result", "id": "1", "error": "x"},
        ),
        (
            {"type": "storage_upload", "id": "1"},
            {"url": "u"},
            {"type": "storage_upload_url", "id": "1", "url": "u"},
        ),
        (
            {"type": "sql_begin", "id": "1"},
            {"id": "forged", "type": "x", "tx_id": "t"},
            {"type": "sql_begin_result", "id": "1", "tx_id": "t"},
        ),
        (
            {"type": "agent_tool_call", "invoke_id": "i", "call_id": "c"},
            {"result": 1},
            {"type": "agent_tool_result", "invoke_id": "i", "call_id": "c", "result": 1},
        ),
        ({"type": "agent_chunk", "invoke_id": "i"}, {}, None),
        ({"type": ["x"]}, {}, None),
    ],
)
def test_operation_answer(operation, body, answer) -> None:
    assert operation_answer(operation, body) == answer
