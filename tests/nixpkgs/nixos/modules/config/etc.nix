# Files below /etc. `system.build.etc` is a tree $out/etc for /etc/static to point to. A file with a mode other than
# "symlink" lies there with three others beside it, NAME.mode, NAME.uid and NAME.gid: the activation copies it into /etc.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  entries = lib.filter (f: f.enable) (lib.attrValues config.environment.etc);

  entry = types.submodule ({ name, config, options, ... }: {
    options = {
      enable = mkOption { type = types.bool; default = true; description = "Whether the file is there."; };
      target = mkOption { type = types.str; default = name; description = "The name of the file, relative to /etc."; };
      text = mkOption { type = types.nullOr types.lines; default = null; description = "The text of the file."; };
      source = mkOption { type = types.path; description = "The file or folder to link to."; };
      mode = mkOption {
        type = types.strMatching "symlink|direct-symlink|[0-7]{3,4}";
        default = "symlink";
        description = "`symlink`, or the mode of a copy.";
      };
      uid = mkOption { type = types.int; default = 0; description = "The owner of a copy."; };
      gid = mkOption { type = types.int; default = 0; description = "The group of a copy."; };
      user = mkOption {
        type = types.str;
        default = "+${toString config.uid}";
        description = "The owner of a copy, by name, or as +UID.";
      };
      group = mkOption {
        type = types.str;
        default = "+${toString config.gid}";
        description = "The group of a copy, by name, or as +GID.";
      };
    };
    config = {
      target = lib.mkDefault name;
      source = lib.mkIf (config.text != null)
        (lib.mkDerivedConfig options.text (pkgs.writeText ("etc-" + lib.replaceStrings [ "/" ] [ "-" ] name)));
    };
  });
in
{
  options.environment.etc = mkOption { type = types.attrsOf entry; default = { }; description = "Files below /etc."; };

  config.system.build.etc = pkgs.runCommandLocal "etc" { } ''
    add() { # source target mode user group
        target=$out/etc/$2
        mkdir -p "''${target%/*}"
        if [ -e "$target" ]; then
            echo "duplicate entry $2 in environment.etc" >&2
            exit 1
        fi
        if [ "$3" = symlink ] || [ "$3" = direct-symlink ]; then
            if [ "$3" = direct-symlink ]; then echo "$3" > "$target.mode"; fi
            ln -s "$1" "$target"
        else
            cp "$1" "$target"
            echo "$3" > "$target.mode"
            echo "$4" > "$target.uid"
            echo "$5" > "$target.gid"
        fi
    }
    mkdir -p "$out/etc"
    ${lib.concatMapStringsSep "\n" (e: "add ${lib.escapeShellArgs [ "${e.source}" e.target e.mode e.user e.group ]}") entries}
  '';
}
