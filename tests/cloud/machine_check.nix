# Systems for machine_check.py: the image's own with something changed.
let
  system =
    change:
    (import <nixpkgs/nixos> {
      configuration = {
        imports = [
          ./image/configuration.nix
          change
        ];
      };
    }).system;

  greeter = text: { pkgs, ... }: {
    environment.etc.greeting.text = text;
    systemd.services.greeter = {
      description = "Says ${text}";
      wantedBy = [ "multi-user.target" ];
      script = "echo ${text}; exec sleep infinity";
    };
  };
in
{
  one = system (greeter "one");
  two = system (greeter "two");
  special = system {
    imports = [ (greeter "parent") ];
    specialisation.child.configuration.environment.etc.child.text = "here";
  };
  failing = system {
    systemd.services.failing = {
      wantedBy = [ "multi-user.target" ];
      serviceConfig.Type = "oneshot";
      script = "exit 7";
    };
  };
  activation = system { system.activationScripts.broken = "false"; };
  interface = system { system.extraSystemBuilderCmds = "printf 'systemd 3' > $out/init-interface-version"; };
  inhibited = system { system.switch.inhibitors.dbus-implementation = "broker"; };
  reloaded = system {
    imports = [ (greeter "two") ];
    systemd.services.greeter.reloadIfChanged = true;
    systemd.services.greeter.reload = "touch /run/reloaded";
  };
  # A mount that fails takes the machine to emergency mode, where that is on.
  emergency = system ({ lib, ... }: {
    systemd.enableEmergencyMode = lib.mkForce true;
    fileSystems."/data" = {
      device = "/var/missing.img";
      fsType = "ext4";
      options = [ "loop" ];
    };
  });
  locked = system ({ lib, ... }: { services.openssh.enable = lib.mkForce false; });
  people = system {
    security.sudo.wheelNeedsPassword = false;
    security.doas.enable = true;
    security.doas.wheelNeedsPassword = false;
    users.users.alice = {
      isNormalUser = true;
      extraGroups = [ "wheel" ];
    };
  };
  package = (import <nixpkgs> { }).runCommand "built-there" { } "echo built > $out";
  fish = system ({ pkgs, ... }: {
    users.users.root.shell = pkgs.fish;
    environment.systemPackages = [ pkgs.fish ];
  });
}
