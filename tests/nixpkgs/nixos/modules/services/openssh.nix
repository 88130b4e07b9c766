# The ssh server: the way into the machine.
{ config, lib, pkgs, ... }:
let
  inherit (lib) mkOption types concatMapStrings;
  cfg = config.services.openssh;
  ssh = config.programs.ssh.package;
  setting = types.nullOr (types.oneOf [ types.bool types.int types.str (types.listOf types.str) ]);

  show = value:
    if value == true then "yes" else if value == false then "no" else toString value;
  # The first of two values counts for sshd, so Port, AddressFamily and the like come in a fixed order before the rest.
  text = "UsePAM ${show cfg.settings.UsePAM}\n"
    + concatMapStrings (port: "Port ${toString port}\n") cfg.ports
    + concatMapStrings ({ addr, port }: "ListenAddress ${addr}${lib.optionalString (port != null) ":${toString port}"}\n") cfg.listenAddresses
    + concatMapStrings (key: "HostKey ${key.path}\n") cfg.hostKeys
    + "AuthorizedKeysFile ${toString cfg.authorizedKeysFiles}\n"
    + lib.optionalString cfg.allowSFTP "Subsystem sftp ${cfg.sftpServerExecutable}\n"
    + lib.concatStrings (lib.mapAttrsToList (name: value: lib.optionalString (value != null) "${name} ${show value}\n")
      (removeAttrs cfg.settings [ "UsePAM" ]))
    + cfg.extraConfig;
in
{
  options = {
    programs.ssh.package = mkOption { type = types.package; default = pkgs.openssh; description = "The OpenSSH to use."; };
    programs.ssh.knownHosts = mkOption { type = types.attrsOf types.anything; default = { }; description = "Stored only."; };
    services.openssh = {
      enable = lib.mkEnableOption "the OpenSSH server";
      startWhenNeeded = mkOption {
        type = types.enum [ false ];
        default = false;
        description = "Must stay off: the server always runs here.";
      };
      ports = mkOption { type = types.listOf types.port; default = [ 22 ]; description = "Ports that it listens on."; };
      openFirewall = mkOption { type = types.bool; default = true; description = "Stored only."; };
      listenAddresses = mkOption {
        type = types.listOf (types.submodule { options = {
          addr = mkOption { type = types.str; description = "The address."; };
          port = mkOption { type = types.nullOr types.int; default = null; description = "The port."; };
        }; });
        default = [ ];
        description = "Addresses that it listens on; all if empty.";
      };
      hostKeys = mkOption {
        type = types.listOf (types.attrsOf types.anything);
        default = [
          # NixOS asks for 4096 bits; making such a key would be most of a machine's first boot here.
          { type = "rsa"; bits = 2048; path = "/etc/ssh/ssh_host_rsa_key"; }
          { type = "ed25519"; path = "/etc/ssh/ssh_host_ed25519_key"; }
        ];
        description = "Host keys, made where they are missing.";
      };
      authorizedKeysFiles = mkOption {
        type = types.listOf types.str;
        default = [ ];
        description = "Files of keys that may log in.";
      };
      authorizedKeysInHomedir = mkOption {
        type = types.bool;
        default = true;
        description = "Whether ~/.ssh/authorized_keys counts.";
      };
      allowSFTP = mkOption { type = types.bool; default = true; description = "Whether sftp is served."; };
      sftpServerExecutable = mkOption {
        type = types.str;
        default = "${ssh}/libexec/sftp-server";
        description = "The sftp server.";
      };
      banner = mkOption { type = types.nullOr types.lines; default = null; description = "A message before login."; };
      extraConfig = mkOption { type = types.lines; default = ""; description = "Lines for sshd_config."; };
      settings = mkOption {
        default = { };
        description = "Settings of sshd_config.";
        type = types.submodule {
          freeformType = types.attrsOf setting;
          options = {
            PermitRootLogin = mkOption {
              type = types.enum [ "yes" "without-password" "prohibit-password" "forced-commands-only" "no" ];
              default = "prohibit-password";
              description = "Whether root may log in.";
            };
            PasswordAuthentication = mkOption {
              type = types.nullOr types.bool;
              default = true;
              description = "Whether passwords are accepted.";
            };
            KbdInteractiveAuthentication = mkOption {
              type = types.nullOr types.bool;
              default = true;
              description = "Whether keyboard-interactive login is accepted.";
            };
            UsePAM = mkOption { type = types.nullOr types.bool; default = true; description = "Whether PAM is asked."; };
            X11Forwarding = mkOption {
              type = types.nullOr types.bool;
              default = false;
              description = "Whether X11 is forwarded.";
            };
            LogLevel = mkOption { type = types.nullOr types.str; default = "INFO"; description = "How much is logged."; };
            StrictModes = mkOption {
              type = types.nullOr types.bool;
              default = true;
              description = "Whether modes of key files are checked.";
            };
            UseDns = mkOption {
              type = types.nullOr types.bool;
              default = false;
              description = "Whether client names are looked up.";
            };
          };
        };
      };
    };
  };

  imports = [
    (lib.mkRenamedOptionModule [ "services" "openssh" "permitRootLogin" ] [ "services" "openssh" "settings" "PermitRootLogin" ])
    (lib.mkRenamedOptionModule [ "services" "openssh" "passwordAuthentication" ] [ "services" "openssh" "settings" "PasswordAuthentication" ])
  ];

  config = lib.mkIf cfg.enable {
    services.openssh.authorizedKeysFiles =
      lib.optional cfg.authorizedKeysInHomedir "%h/.ssh/authorized_keys" ++ [ "/etc/ssh/authorized_keys.d/%u" ];
    services.openssh.settings.Banner = lib.mkIf (cfg.banner != null) "${pkgs.writeText "ssh_banner" cfg.banner}";

    # The copy in the store is checked while it is built, so that a typing error cannot lock anyone out.
    environment.etc."ssh/sshd_config".source = pkgs.runCommandLocal "sshd.conf-final" { inherit text; passAsFile = [ "text" ]; } ''
      grep -v '^HostKey ' "$textPath" > sshd_config || true
      ${ssh}/bin/ssh-keygen -q -t ed25519 -N "" -f key
      # Whatever else it lacks in a build (its user, its folder in /run) is no fault of the text.
      ${ssh}/bin/sshd -t -f "$PWD/sshd_config" -h "$PWD/key" 2> message || true
      if grep 'sshd_config.* line ' message >&2; then
          echo "services.openssh: sshd does not take this sshd_config" >&2
          exit 1
      fi
      cp "$textPath" "$out"
    '';
    environment.etc."ssh/moduli".text = "";

    systemd.services.sshd = {
      description = "SSH Daemon";
      wantedBy = [ "multi-user.target" ];
      after = [ "network.target" ];
      stopIfChanged = false;
      path = [ ssh pkgs.gawk ];
      restartTriggers = [ config.environment.etc."ssh/sshd_config".source ];
      preStart = ''
        mkdir -p /etc/ssh
      '' + concatMapStrings (key: ''
        if ! [ -s "${key.path}" ]; then
            rm -f "${key.path}"
            mkdir -p "$(dirname '${key.path}')"
            ssh-keygen -t "${key.type}" -f "${key.path}" -N "" ${toString (
              lib.optionals (key ? bits) [ "-b" key.bits ] ++ lib.optionals (key ? comment) [ "-C" (lib.escapeShellArg key.comment) ])}
        fi
      '') cfg.hostKeys;
      serviceConfig = {
        ExecStart = "${ssh}/bin/sshd -D -f /etc/ssh/sshd_config";
        # Sessions live on when the server restarts: a switch comes in over one.
        KillMode = "process";
        Restart = "always";
        Type = "notify";
      };
    };

    users.users.sshd = { isSystemUser = true; group = "sshd"; description = "SSH privilege separation user"; };
    users.groups.sshd = { };
    environment.systemPackages = [ ssh ];
    assertions = lib.optional (cfg.hostKeys == [ ]) { assertion = false; message = "services.openssh.hostKeys is empty: the server needs a host key."; };
  };
}
