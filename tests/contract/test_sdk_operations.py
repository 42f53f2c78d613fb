"""Operations of both author SDKs: what handlers ask of the host, and for which call.

Source: contract part 30, 3.2 and 4.3 to 4.5.
"""

from __future__ import annotations

from tests.support.sdk_host import ANA, Host, storage


class TestOperations:
    def test_sql(self, app: Host) -> None:
        key = app.begin("sql", {"sql": "SELECT $1", "params": ["a", None, 3]})
        query = app.expect("sql_query")
        assert query["call"] == f"t-{key}"
        assert (query["sql"], query["params"]) == ("SELECT $1", ["a", None, 3])
        app.reply(query, "sql_query_result", columns=["n"], rows=[[12]], row_count=1)
        expected = {"columns": ["n"], "rows": [[12]], "row_count": 1}
        assert app.answer(key)["result"] == expected

    def test_host_error_can_be_caught(self, app: Host) -> None:
        key = app.begin("sqlError")
        app.reply(app.expect("sql_query"), "sql_query_result", error="statement not allowed: DROP")
        assert app.answer(key)["result"] == ["HostError", "statement not allowed: DROP"]

    def test_host_error_uncaught_is_the_answer(self, app: Host) -> None:
        key = app.begin("collection")
        error = "missing permission: app:crm:contacts.create"
        app.reply(app.expect("collection_op"), "collection_op_result", error=error)
        assert app.answer(key)["error"] == error

    def test_no_answer_in_time(self, fresh: Host) -> None:
        fresh.ready(run_onstart=False, limits={"call_timeout_ms": 200})
        key = fresh.begin("sqlError")
        query = fresh.expect("sql_query")
        name, text = fresh.answer(key)["result"]
        assert (name, text) == ("HostTimeout", "no answer from the host within 0.2 s")
        fresh.reply(query, "sql_query_result", columns=[], rows=[], row_count=0)
        assert fresh.rpc("echo", "late answer dropped") == "late answer dropped"

    def test_transaction_commits(self, app: Host) -> None:
        key = app.begin("transaction", 5)
        app.reply(app.expect("sql_begin", call=f"t-{key}"), "sql_begin_result", tx_id="x1")
        statement = app.expect("sql_exec", call=f"t-{key}", tx_id="x1")
        assert statement["params"] == [5]
        app.reply(statement, "sql_exec_result", columns=[], rows=[], row_count=3)
        app.silent("rpc_response", 0.1)
        app.reply(app.expect("sql_commit", call=f"t-{key}", tx_id="x1"), "sql_end_result")
        assert app.answer(key)["result"] == 3

    def test_transaction_rolls_back_on_failure(self, app: Host) -> None:
        key = app.begin("transaction", "fail")
        app.reply(app.expect("sql_begin"), "sql_begin_result", tx_id="x1")
        app.reply(app.expect("sql_exec"), "sql_exec_result", columns=[], rows=[], row_count=1)
        app.reply(app.expect("sql_rollback", call=f"t-{key}", tx_id="x1"), "sql_end_result")
        assert app.answer(key)["error"] == "changed my mind"

    def test_transaction_commit_that_fails_fails_the_call(self, app: Host) -> None:
        key = app.begin("transaction", 5)
        app.reply(app.expect("sql_begin"), "sql_begin_result", tx_id="x1")
        app.reply(app.expect("sql_exec"), "sql_exec_result", columns=[], rows=[], row_count=1)
        error = "transaction no longer active"
        app.reply(app.expect("sql_commit"), "sql_end_result", error=error)
        assert app.answer(key)["error"] == error

    def test_collections(self, app: Host) -> None:
        key = app.begin("collection")
        options = {"limit": 5, "offset": 2, "order_by": [["name", "desc"]]}
        expected = [
            ("insert", {"name": "Ana"}, None),
            ("update", {"id": "c1", "name": "Bo"}, None),
            ("find", {"active": True}, options),
            ("find", {}, None),
            ("findOne", {"id": "c1"}, None),
            ("delete", {"id": "c1"}, None),
        ]
        for number, (op, data, wanted) in enumerate(expected):
            message = app.expect("collection_op", call=f"t-{key}", entity="contacts")
            assert (message["op"], message["data"], message.get("options")) == (op, data, wanted)
            app.reply(message, "collection_op_result", result=number)
        assert app.answer(key)["result"] == [0, 1, 2, 3, 4, 5]

    def test_enqueue(self, app: Host) -> None:
        key = app.begin("enqueue")
        first = app.expect("job_enqueue", call=f"t-{key}")
        assert (first["payload"], first.get("delay")) == ({"task": "next"}, None)
        app.reply(first, "job_enqueue_result", msg_id=7)
        second = app.expect("job_enqueue", call=f"t-{key}")
        assert (second["payload"], second["delay"]) == ([1], 60)
        app.reply(second, "job_enqueue_result", msg_id=8)
        assert app.answer(key)["result"] == [7, 8]

    def test_actions(self, app: Host) -> None:
        key = app.begin("actions")
        mail = {"integrationId": "mail", "action": "send", "input": {"to": "bo"}, "asUser": "u2"}
        for action, params in (
            ("triggerAction", {"actionName": "sync", "input": {"full": True}}),
            ("call_integration", mail),
            ("syncConnectedUsers", {"actionName": "sync"}),
        ):
            message = app.expect("self_action", call=f"t-{key}")
            assert (message["action"], message["params"]) == (action, params)
            app.reply(message, "self_action_result", result=action)
        answer = app.answer(key)
        assert answer["result"] == ["triggerAction", "call_integration", "syncConnectedUsers"]

    def test_upload(self, app: Host) -> None:
        with storage() as (url, received):
            key = app.begin("upload")
            message = app.expect("storage_upload", call=f"t-{key}", name="list.csv")
            assert (message["content_type"], message["size"]) == ("text/csv", 4)
            app.reply(message, "storage_upload_url", url=url)
            assert app.answer(key)["result"] == "f1"
        assert received == [b"a,b\n"]

    def test_too_large_operation_is_never_sent(self, app: Host) -> None:
        assert app.rpc_error("tooLargeOperation") == "message too large"
        app.silent("sql_query", 0.1)


class TestCalls:
    def test_two_interleaved_calls_keep_their_own_ctx(self, app: Host) -> None:
        first = app.begin("sql", {"sql": "first", "params": []}, ANA)
        second = app.begin("sql", {"sql": "second", "params": []})
        one, two = app.expect("sql_query", sql="first"), app.expect("sql_query", sql="second")
        assert (one["call"], two["call"]) == (f"t-{first}", f"t-{second}")
        assert one["id"] != two["id"]
        app.reply(two, "sql_query_result", columns=[], rows=[[2]], row_count=1)
        app.reply(one, "sql_query_result", columns=[], rows=[[1]], row_count=1)
        assert app.answer(first)["result"]["rows"] == [[1]]
        assert app.answer(second)["result"]["rows"] == [[2]]

    def test_ctx_is_dead_after_its_call(self, app: Host) -> None:
        app.rpc("keep", None, ANA)
        assert app.rpc_error("useKept") == "call is over"
        app.silent("sql_query", 0.1)

    def test_the_host_says_that_a_call_is_over(self, app: Host) -> None:
        key = app.begin("sqlError")
        app.reply(app.expect("sql_query"), "sql_query_result", error="call is over")
        assert app.answer(key)["result"] == ["CallOver", "call is over"]

    def test_hundreds_of_operations_at_once(self, app: Host) -> None:
        keys = [app.begin("threeArguments", n) for n in range(200)]
        keys += [app.begin("sql", {"sql": str(n), "params": []}) for n in range(200)]
        for _ in range(200):
            query = app.expect("sql_query")
            app.reply(query, "sql_query_result", columns=[], rows=[[query["sql"]]], row_count=1)
        for number, key in enumerate(keys[200:]):
            assert app.answer(key)["result"]["rows"] == [[str(number)]]
