# Assertions for use with `assert`.
{ lib }:
rec {
  assertMsg = condition: message: condition || throw message;
  assertOneOf = name: value: allowed:
    assertMsg (builtins.elem value allowed)
      "${name} must be one of ${lib.generators.toPretty { multiline = false; } allowed}, but is: ${lib.generators.toPretty { } value}";
  assertEachOneOf = name: values: allowed: lib.all (value: assertOneOf name value allowed) values;
}
