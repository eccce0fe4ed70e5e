"""What went wrong in the field, by a short name, and the tests that hold each right value."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

# Slug of the case: the right value, and the tests that hold it, as `module::test`.
CASES: dict[str, tuple[str, list[str]]] = {
    "anonymous-caller": (
        "a withheld number is unknown to model, tools, console and record",
        ["test_numbers.py::test_a_withheld_number_is_nobodys"],
    ),
    "deaf-model": (
        "a caller who repeats is answered, or hears the fallback, within the agent's time and 4 s",
        ["calls/test_deaf_model.py::test_deaf_and_frozen_models_are_noticed_in_time"],
    ),
    "doctor-key-1007": (
        "the fix follows the reason of a close, not its code alone",
        [
            "cli/test_doctor.py::test_the_fix_follows_the_reason",
            "cli/test_doctor.py::test_an_expired_key_is_named_by_doctor",
        ],
    ),
    "http-charset": (
        "the charset of Content-Type counts; an unknown one is an error",
        [
            "tools/http/test_client.py::test_a_text_is_decoded_by_its_charset",
            "tools/http/test_client.py::test_an_unknown_charset_is_no_success",
        ],
    ),
    "http-json-bom": (
        "JSON after a byte order mark is read",
        [
            "tools/http/test_body.py::test_json_as_rfc_8259_allows_it",
            "tools/http/test_client.py::test_an_odd_but_legal_json_answer_is_read",
        ],
    ),
    "mcp-embedded-resource": (
        "the text of an embedded resource is sent to the model",
        ["tools/mcp/test_tools.py::test_embedded_resources_are_returned"],
    ),
    "mcp-name-begins-with-digit": (
        "declared by a name that the model takes, called by the server's own",
        [
            "tools/mcp/test_tools.py::test_an_odd_servers_tools_are_declared_and_called",
            "tools/mcp/test_tools.py::test_names_are_mapped_uniquely",
            "rehearsal/model/test_declarations.py::test_a_refused_name",
        ],
    ),
    "mcp-schema-references": (
        "references are JSON pointers; a schema that holds itself is cut",
        [
            "tools/test_schema.py::test_a_reference_is_a_json_pointer",
            "tools/test_schema.py::test_a_schema_inside_itself_is_cut_with_a_note",
            "tools/mcp/test_tools.py::test_an_odd_servers_tools_are_declared_and_called",
            "models/gemini/test_declarations.py::test_any_schema_is_declared_as_the_api_takes_it",
        ],
    ),
    "model-audio-mime": (
        "media types by RFC 9110: parameters in any order and case, quoted values; what is refused is in the record",
        [
            "models/gemini/test_messages.py::test_a_media_type_is_read_by_rfc_9110",
            "models/gemini/test_link.py::test_audio_of_a_refused_type_is_in_the_record",
        ],
    ),
    "number-behind-an-application": (
        "a number whose calls an application, a trunk or GET sends elsewhere is named with the fix",
        [
            "cli/test_doctor.py::test_a_number_whose_calls_go_elsewhere",
            "carriers/twilio/test_rest.py::test_set_number_takes_it_off_trunk_and_application",
        ],
    ),
    "numbers-not-e164": (
        "normalised, or refused with line and fix",
        [
            "test_numbers.py::test_an_agent_files_numbers_are_normalised",
            "test_numbers.py::test_an_agent_file_with_another_number_is_refused",
        ],
    ),
    "socks-proxy": (
        "one line with the variable's name and the fix",
        [
            "cli/test_main.py::test_a_socks_proxy_is_one_line_with_its_fix",
            "test_config.py::test_any_socks_proxy_is_refused",
        ],
    ),
    "tool-result-64-bit-id": (
        "whole numbers beyond 2^53 are sent as text",
        ["tools/test_answer.py::test_values_become_plain_json"],
    ),
    "tool-result-numpy": (
        "numpy's numbers are numbers; what cannot be written is an error at once",
        [
            "tools/test_answer.py::test_values_become_plain_json",
            "tools/test_answer.py::test_a_value_that_cannot_be_written_raises",
        ],
    ),
    "tool-result-pydantic": (
        "models, attrs classes and named tuples keep their field names",
        ["tools/test_answer.py::test_values_become_plain_json"],
    ),
    "tool-sync-wrapper-around-async": (
        "an awaitable that a plain function returns is awaited",
        ["tools/test_runner.py::test_an_awaitable_result_is_awaited"],
    ),
    "tool-time-without-seconds": (
        "14:30 is a time; one that is refused is refused with a form to use",
        [
            "tools/test_schema.py::test_a_time_without_seconds_is_a_time",
            "tools/test_function.py::test_a_time_may_be_given_without_seconds",
            "tools/test_function.py::test_a_wrong_time_is_refused_with_its_form",
        ],
    ),
    "transfer-of-a-sip-caller": (
        "every <Dial> has a callerId that a called party can be shown",
        [
            "carriers/twilio/test_twiml.py::test_every_dial_can_carry_a_caller_id",
            "carriers/twilio/test_callers.py::test_the_caller_id_is_one_of_our_numbers",
        ],
    ),
    "wav-extensible": (
        "WAVE_FORMAT_EXTENSIBLE is read on every Python",
        ["media/test_wav.py::test_a_header_of_the_field_is_read"],
    ),
    "wav-streamed-header": (
        "a length of 0 or 0xFFFFFFFF is that of the file; a file without samples is refused",
        [
            "media/test_wav.py::test_a_header_of_the_field_is_read",
            "media/test_wav.py::test_a_file_without_samples_is_refused",
            "media/test_wav.py::test_a_false_length_takes_no_memory",
            "cli/test_main.py::test_check_names_file_and_line_of_a_sound",
        ],
    ),
    "yaml-braces-unquoted": (
        "line and fix: put quotes around it",
        ["test_yamlfile.py::test_mistake_is_named_with_line_and_fix"],
    ),
    "yaml-key-twice": (
        "refused, with both lines",
        ["test_yamlfile.py::test_key_given_twice_is_refused_with_both_lines"],
    ),
}


@cache
def named_in(module: str) -> frozenset[str]:
    tree = ast.parse((TESTS / module).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return frozenset(node.name for node in functions if node.name.startswith("test_"))


@pytest.mark.parametrize("slug", CASES)
def test_right_value_of_a_case_has_its_tests(slug: str) -> None:
    value, named = CASES[slug]
    assert value
    assert named
    missing = [name for name in named if (parts := name.split("::"))[1] not in named_in(parts[0])]
    assert missing == []
